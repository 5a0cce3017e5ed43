"""A light client of CometBFT: which headers to believe, from little trust and few answers."""
