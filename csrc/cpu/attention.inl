static void register_attention(KernelTable&) {}
