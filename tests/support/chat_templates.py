"""Small chat templates of the kinds that models come with: how they join, trim, look for and put together what they write."""

# What the first lines of a template do, as {name: source}. Beside each: models whose templates do the same.
TEMPLATES = {
    # Qwen2.5, SmolLM2, Yi
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # Qwen3, SmolLM3: tools as JSON, thinking cut off earlier answers and switched off
    "thinking": "{%- if tools %}{{- '<|im_start|>system\n' }}{%- for t in tools %}{{- t | tojson }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- endif %}{%- set ns = namespace(last=messages | length - 1) %}{%- for m in messages %}{%- if m.content is string %}"
    "{%- set content = m.content %}{%- else %}{%- set content = '' %}{%- endif %}{%- if m.role == 'assistant' %}"
    "{%- set thought = '' %}{%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}"
    "{%- elif '</think>' in content %}{%- set thought = content.split('</think>')[0].split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if loop.index0 == ns.last %}{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{%- endif %}{{- content }}"
    "{%- for c in m.tool_calls or [] %}{%- if c.function %}{%- set c = c.function %}{%- endif %}{{- '\n<tool_call>' + c.name }}"
    "{%- if c.arguments is string %}{{- c.arguments }}{%- else %}{{- c.arguments | tojson }}{%- endif %}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- elif m.role == 'tool' %}{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}"
    "{{- '<|im_start|>user' }}{%- endif %}{{- '\n<tool_response>' + content }}{%- if loop.last or "
    "messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}{%- else %}{{- '<|im_start|>' + m.role + '\n' "
    "+ content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}",
    # Phi-4-mini, ChatGLM3: control tokens put together around a role
    "role": "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    # EXAONE
    "bracket": "{% for m in messages %}[|{{ m.role }}|]{{ m.content }}{{ '\n' if m.role == 'user' else '[|endofturn|]\n' }}"
    "{% endfor %}{% if add_generation_prompt %}[|assistant|]{% endif %}",
    # Llama 3: content trimmed, a default in a variable
    "header": "{% set text = system_message if system_message is defined else 'Cutting Knowledge' %}{% for m in messages %}"
    "{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'+ m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + text + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt else '' }}",
    # Llama 2: words in brackets, roles that alternate
    "inst": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' if m.role == 'user' else ' ' + m.content.strip() + ' ' "
    "+ eos_token }}{% endfor %}",
    # Mistral: JSON written by hand, cut off, and joined
    "slices": "{{ bos_token }}{% if tools %}[TOOLS] [{% for t in tools %}{{ '{' }}{% for k, v in t.function.items() %}"
    "{{ '\"' + k + '\": ' + (('\"' + v + '\"') if v is string else v | tojson) }}{{ ', ' if not loop.last }}{% endfor %}{{ '}' }}"
    "{% endfor %}][/TOOLS]{% endif %}{% for m in messages %}{% if m.tool_calls %}[CALLS] [{% for c in m.tool_calls %}"
    "{% set out = c.function | tojson %}{{ out[:-1] + ', \"id\": \"' + c.id + '\"}' }}{% endfor %}]{{ eos_token }}"
    "{% elif m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content | string + eos_token }}"
    "{% endif %}{% endfor %}",
    # Command R: documents, all of their keys, ASCII alone, upper case
    "documents": "{{ bos_token }}{% if documents %}<results>{% for d in documents %}\nDocument: {{ loop.index0 }}\n"
    "{% for k, v in d.items() %}{{ k }}: {{ v }}\n{% endfor %}{% endfor %}</results>{% endif %}{% if tools %}"
    "{{ tools | tojson(indent=2) }}{{ tools | tojson(ensure_ascii=True) }}{% endif %}{% for m in messages %}"
    "{{ ('<|' ~ m.role ~ '_token|>') | upper }}{{ m.content | default('') | trim | upper }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|ASSISTANT_TOKEN|>{% endif %}",
    # Granite: what a template is given by name
    "controls": "{% for d in documents or [] %}{{ '<|start_of_role|>document ' + d['id'] | string + '<|end_of_role|>' + d['text'] }}"
    "{% endfor %}{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|start_of_role|>assistant' }}{% if controls %}{{ ' ' + controls | tojson }}"
    "{% endif %}{{ '<|end_of_role|>' }}{% endif %}{% endfor %}",
    # Qwen3-Coder, GLM-4.5: tags made of keys, whatever keys there are
    "keys": "{% macro extra(d, known) %}{% for k in d if k not in known %}{{ '\n<' ~ k ~ '>' ~ d[k] ~ '</' ~ k ~ '>' }}{% endfor %}"
    "{% endmacro %}{% for t in tools or [] %}<s>{{ '<' + t.function.name + '>' }}{{ extra(t.function, ['name']) }}</s>{% endfor %}"
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}{{ extra(m, ['role', 'content', 'tool_calls']) }}"
    "{% for c in m.tool_calls or [] %}<function={{ c.function.name }}>{% for a, v in c.function.arguments | items %}"
    "<parameter={{ a }}>{{ v if v is string else v | tojson }}</parameter>{% endfor %}</function>{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}",
    # DeepSeek: fullwidth bars, first and last of several calls, a namespace
    "bars": "{% set ns = namespace(system='', first=true) %}{% for m in messages if m.role == 'system' %}"
    "{% set ns.system = ns.system ~ m.content %}{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' }}"
    "{% set content = m.content or '' %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ content }}{% for c in m.tool_calls or [] %}{% if loop.first %}{{ '<｜calls▁begin｜>' }}{% endif %}"
    "{{ '<｜call▁begin｜>' + c.function.name + '<｜sep｜>' + c.function.arguments | tojson + '<｜call▁end｜>' }}{% endfor %}"
    "{{ '<｜end｜>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
    # gpt-oss, Harmony: macros, channels, what an answer must not hold
    "channels": "{% macro say(role, channel, text) %}{{ '<|start|>' ~ role }}{% if channel %}<|channel|>{{ channel }}{% endif %}"
    "<|message|>{{ text }}{% endmacro %}{% for m in messages %}{% if '<|channel|>' in m.content %}{{ raise_exception('a channel') }}"
    "{% endif %}{% if m.thinking %}{{ say(m.role, 'analysis', m.thinking) }}<|end|>{% endif %}"
    "{{ say('developer' if m.role == 'system' else m.role, 'final' if m.role == 'assistant', m.content) }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    # Gemma 3: parts, roles renamed, {% set %} blocks
    "parts": "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}{% set said %}"
    "{% if m.content is string %}{{ m.content | trim }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text | trim }}"
    "{% endif %}{% endfor %}{% endif %}{% endset %}{{ '<start_of_turn>' ~ role ~ '\n' ~ said ~ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    # No model's: control tokens from pieces in every way there is
    "pieces": "{% set ns = namespace(out='') %}{% set parts = ['<|im_start|>', 'x'] %}{% for m in messages %}"
    "{% set ns.out = [ns.out, '<|im_' ~ 'start|>', m.role, '\n', m.content | default('', true) | string, ['<|', 'im_end', '|>'] | join] "
    "| join('') %}{% endfor %}{% for d in documents or [] %}{{ d | dictsort | tojson }}{{ d.values() | map('string') | join('<|im_end|>') }}"
    "{% endfor %}{{ ns.out.strip() }}{% if tools %}{{ '%s%s' | format('<|im_start|>tools ', tools | map(attribute='function') | "
    "map(attribute='name') | join('|>')) }}{{ '{}{}'.format(parts[0], tools[0].function.description) }}{% for t in tools %}"
    "<|{{ t.function.name }}|>{{ '<|' }}{{ t.function.description }}{{ '|>' }}{{ '<|' ~ t.function.description.upper() | replace('|', '<') }}"
    "{% endfor %}{% endif %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}

CONTROL = [
    *(
        "<|bos|>",
        "<|eos|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<|tool|>",
        "<|end|>",
    ),
    *(
        "[|user|]",
        "[|assistant|]",
        "[|system|]",
        "[|endofturn|]",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    *(
        "[INST]",
        "[/INST]",
        "[TOOLS]",
        "[/TOOLS]",
        "[CALLS]",
        "<|USER_TOKEN|>",
        "<|ASSISTANT_TOKEN|>",
        "<|SYSTEM_TOKEN|>",
    ),
    *("<|END_OF_TURN_TOKEN|>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<s>", "</s>", "<｜User｜>"),
    *(
        "<｜Assistant｜>",
        "<｜calls▁begin｜>",
        "<｜call▁begin｜>",
        "<｜sep｜>",
        "<｜call▁end｜>",
        "<｜end｜>",
        "<|start|>",
    ),
    *("<|channel|>", "<|message|>", "<|return|>", "<start_of_turn>", "<end_of_turn>"),
]
