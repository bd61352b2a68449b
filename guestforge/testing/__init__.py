"""What tests put in the place of a part, or drive one with: doubles, front ends, archives. For tests of any kind."""
