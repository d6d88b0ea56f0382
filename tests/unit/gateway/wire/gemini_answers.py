"""What Gemini might answer: JSON of any shape under the names that it uses."""

from hypothesis import strategies as st

NAMES = [
    *("candidates", "content", "parts", "text", "thought", "thoughtSignature", "functionCall", "name", "args", "id"),
    *("finishReason", "finishMessage", "index", "promptFeedback", "blockReason", "error", "inlineData", "mimeType"),
    *("data", "usageMetadata", "promptTokenCount", "promptTokensDetails", "tokenCount", "modality", "responseId"),
    "modelVersion",
]
_words = ["STOP", "AUDIO", "SAFETY", "x", "", "c2ln", "YmFja3N0YXkA"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**63) | st.sampled_from(_words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=15,
)
