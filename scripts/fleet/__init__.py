"""How many replicas users need, and how requests should be spread over them: formulas and a simulator."""
