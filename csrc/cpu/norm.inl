static void register_norm(KernelTable&) {}
