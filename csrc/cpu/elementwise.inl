static void register_elementwise(KernelTable&) {}
