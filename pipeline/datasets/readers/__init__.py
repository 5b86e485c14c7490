"""Reading of the files of data sets: annotations, their values and options, subtitles, and scores of frames."""
