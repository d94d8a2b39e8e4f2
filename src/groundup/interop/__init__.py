"""Weights and tokenizers in the forms of other libraries; it imports none of them."""
