"""Accuracy against privacy: the curve, its audit from outside, and the price of protection."""
