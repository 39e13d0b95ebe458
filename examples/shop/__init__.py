"""The example shop: three tasks on real files, a topology, and a program that shows them at work."""
