for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const numbers = [Number(x), Number(y)];
        const order = numbers.some(Number.isNaN) ? x.localeCompare(y) : numbers[0] - numbers[1];
        return up ? order : -order;
      });
      body.replaceChildren(...rows);
    });
  });
}

const opened = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    opened.push(details);
  }
});
addEventListener("afterprint", () => {
  for (const details of opened.splice(0)) details.open = false;
});

const regions = document.querySelectorAll(".scroll, .wide");
const mark = () => regions.forEach((one) => one.classList.toggle("more", one.scrollWidth > one.clientWidth + 1));
new ResizeObserver(mark).observe(document.body);
document.addEventListener("toggle", mark, true);
