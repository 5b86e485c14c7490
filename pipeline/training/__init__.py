"""Training: one task protocol, one loop, its processes, and the tasks of Localizer and Answerer."""
