"""Attacks that measure what protection is worth: each works where it is off and fails where on.

linear          every client's vector from the sums that a viewer sees
canaries        membership of canaries in private training, and a lower bound of epsilon
inversion       which images a connector's update was computed on
distances       a client's task from distances; a vector from repeated distances
"""
