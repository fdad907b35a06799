"""The recorded table of trials by which searchers and schedulers are judged, its recorder and its replay."""
