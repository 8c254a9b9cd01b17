"""What a tracker's network is made of around its attention, on the compiled CPU kernels: the encoder's layers and the head's convolutions."""
