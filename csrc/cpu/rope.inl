static void register_rope(KernelTable&) {}
