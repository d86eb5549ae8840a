static void register_loss(KernelTable&) {}
