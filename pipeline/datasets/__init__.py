"""The question records, and one module per data set, named nowhere else: its files as downloaded -> Annotations."""
