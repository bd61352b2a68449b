"""What a guest costs the host besides its containers: measured, written down, and as a RuntimeClass of Kubernetes.

`usage` reads what processes have used, `measure` boots guests and takes samples, `figures` makes figures of samples,
`runtimeclass` and `report` write them down, `host` tells what they were measured on.
"""
