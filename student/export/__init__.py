"""A finished student in other forms (plain weights, CTranslate2, ONNX), each checked."""
