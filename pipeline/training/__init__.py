"""Training: the task protocol, the training loop, its processes, and the tasks of Localizer, Answerer and selectors."""
