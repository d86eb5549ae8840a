static void register_sample(KernelTable&) {}
