"""What is wrong with a data set: copies, wrong labels, foreign images, found by pixels and features."""
