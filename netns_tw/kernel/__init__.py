"""Floor 1: the only code that talks to the kernel. It takes str, int and addresses, and knows no node and no lab."""
