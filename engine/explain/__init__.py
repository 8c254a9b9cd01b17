"""What the network saw: eliminated tokens, attention, maps and correlations of single frames, as in the paper's figures 1 and 5."""
