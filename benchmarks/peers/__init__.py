"""Other engines that run the same network."""
