"""xaibench: does a distilled student decide for the same reasons as its teacher?"""
