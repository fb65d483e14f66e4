"""A page in the browser to try a trained model: what is asked, how it is sampled, the canvas while it is written."""
