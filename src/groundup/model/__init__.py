"""Networks in plain torch: parts named as the papers name them, and what builds, counts, saves and loads them."""
