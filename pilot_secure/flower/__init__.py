"""Runs by Flower's deployment or simulation engine: the apps, each party's folder, a deployment."""
