"""Training: data, augmentation, losses and a trainer that can stop and resume at any step."""
