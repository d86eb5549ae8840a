static void register_embedding(KernelTable&) {}
