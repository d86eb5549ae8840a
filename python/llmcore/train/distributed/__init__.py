"""Training in several processes: who owns which parameters, and what they tell each other."""
