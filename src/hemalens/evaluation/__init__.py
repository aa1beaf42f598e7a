"""Evaluation: scores with intervals, protocols over methods, reports."""
