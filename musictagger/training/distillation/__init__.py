"""Teachers' scores, computed once and cached, and the soft targets of any window. Independent of the student."""
