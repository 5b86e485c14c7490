"""The question records, and one file per data set, which is named nowhere else: its files as downloaded -> Annotations."""
