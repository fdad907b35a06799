"""Uses exported models: predicts files, serves requests, checks machines; needs no study and no Ray Tune."""
