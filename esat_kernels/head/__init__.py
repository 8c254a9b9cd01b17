"""What surrounds the convolutions of the centre head: its features from the last tokens, its maps from the last convolution's channels."""
