"""Tests of the object detection."""
