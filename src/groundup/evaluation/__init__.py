"""What a trained model is worth: statistics of its samples; it knows no trainer and no model."""
