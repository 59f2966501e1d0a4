"""`covey demo`: the whole loop on one machine, told as a story and judged at its end."""
