"""What a trained model is worth: bits per byte and statistics of its samples; it knows no trainer and no model."""
