"""How the weights move: a step and its learning rate, weight averaging, and adversarial weight perturbation."""
