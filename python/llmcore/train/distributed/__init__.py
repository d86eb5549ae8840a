"""Training in several processes: which of them owns which parameters, and what they send each other."""
