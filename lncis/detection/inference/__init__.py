"""What a trained model finds in images, and how right it is."""
