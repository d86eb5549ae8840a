#include "tokenizer/split/regex_program.h"

namespace llmcore::tok {
namespace {

constexpr size_t kMaxProgram = 1 << 13;  // instructions

}  // namespace

RegexProgram::RegexProgram(const RegexNode& node) {
  const uint32_t match = add({Instruction::kMatch});
  start = emit(node, match);
}

uint32_t RegexProgram::add(Instruction instruction) {
  if (code.size() == kMaxProgram) throw TooLarge("instructions", kMaxProgram);
  code.push_back(instruction);
  return static_cast<uint32_t>(code.size() - 1);
}

uint32_t RegexProgram::set_number(const CodeSet& set) {
  const auto [entry, fresh] = numbers_.emplace(set, static_cast<uint32_t>(sets.size()));
  if (fresh) sets.push_back(set);
  return entry->second;
}

uint32_t RegexProgram::add_split(bool greedy, uint32_t body, uint32_t skip) {
  return add({Instruction::kSplit, 0, false, greedy ? body : skip, greedy ? skip : body});
}

// Emits code that matches the node and continues at `next`, back to front; returns where it begins.
uint32_t RegexProgram::emit(const RegexNode& node, uint32_t next) {
  if (++emitted_ > kMaxProgram)
    throw TooLarge("instructions", kMaxProgram);  // also if nodes without instructions are repeated
  switch (node.kind) {
    case RegexNode::kEmpty:
      return next;
    case RegexNode::kSet:
      return add({Instruction::kSet, set_number(node.set), false, next});
    case RegexNode::kLook:
      return add({Instruction::kLook, set_number(node.set), node.negative, next});
    case RegexNode::kSequence:
      for (size_t i = node.parts.size(); i-- > 0;) next = emit(node.parts[i], next);
      return next;
    case RegexNode::kAlternates: {
      uint32_t rest = emit(node.parts.back(), next);
      for (size_t i = node.parts.size() - 1; i-- > 0;) {
        const uint32_t first = emit(node.parts[i], next);
        rest = add({Instruction::kSplit, 0, false, first, rest});
      }
      return rest;
    }
    case RegexNode::kRepeat:
      return emit_repeat(node, next);
    case RegexNode::kAhead:
      return emit_apart(Instruction::kAhead, node, next);
    case RegexNode::kBehind:
      return emit_apart(Instruction::kBehind, node, next);
    case RegexNode::kAtomic:
      return emit_apart(Instruction::kAtomic, node, next);
  }
  return next;
}

uint32_t RegexProgram::emit_repeat(const RegexNode& node, uint32_t next) {
  const RegexNode& body = node.parts[0];
  if (node.most == RegexNode::kUnbounded) {
    const uint32_t loop = add_split(node.greedy, 0, next);
    const uint32_t again = emit(body, loop);
    (node.greedy ? code[loop].next : code[loop].other) = again;
    next = loop;
  } else {
    const uint32_t skip = next;
    for (uint32_t i = node.least; i < node.most; ++i) next = add_split(node.greedy, emit(body, next), skip);
  }
  for (uint32_t i = 0; i < node.least; ++i) next = emit(body, next);
  return next;
}

uint32_t RegexProgram::emit_apart(Instruction::Op op, const RegexNode& node, uint32_t next) {
  backtracks = true;
  const uint32_t inner = emit(node.parts[0], add({Instruction::kMatch}));
  return add({op, 0, node.negative, next, inner, node.least, node.most});
}

}  // namespace llmcore::tok
