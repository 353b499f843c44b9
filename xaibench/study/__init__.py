"""Many runs: what a claim about methods is tested on."""
