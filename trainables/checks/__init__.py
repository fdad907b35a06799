"""What is wrong with a data set: copies, wrong labels, foreign and odd images; the page that shows them."""
