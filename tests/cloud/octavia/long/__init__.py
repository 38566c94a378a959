"""Tests of Octavia that take too long for the gate; run them by hand."""
