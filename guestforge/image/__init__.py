"""What a guest is booted from: initrd and disk image, made from a tree without root, mounts or loop devices."""
