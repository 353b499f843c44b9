"""Small experiments on toy data and on the images that come with xaibench: a claim of a paper, measured over seeds."""
