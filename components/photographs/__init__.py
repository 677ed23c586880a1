"""Whole photographs: find the faces, restore them at the model's size, put them back."""
