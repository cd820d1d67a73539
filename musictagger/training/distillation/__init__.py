"""What teachers score, computed once and cached, and the soft targets of any window. Knows no student."""
