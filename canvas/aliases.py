"""What people type into the canvas's search for what our nodes do, beyond the nodes' names, in the languages they type.

The page searches names as they are shown, and these, which are the same whatever its language is.
"""

from __future__ import annotations

_ENLARGE = ("upscale", "upscaler", "enlarge", "super resolution", "superres", "enhance", "hires", "increase resolution")
_ENLARGE_IN_CHINESE = ("放大", "超分", "超分辨率", "高清", "高清修复", "画质增强", "提升分辨率")
_MODELS = ("esrgan", "real-esrgan", "realesrgan", "swinir", "hat", "dat", "span", "ultrasharp")

OF_PICTURES = (
    *_ENLARGE,
    *("upscale with model", "image upscaler", "enlarge image", "hires fix", "2x", "4x", "8x", "4k", "8k"),
    *_MODELS,
    *("tile", "tiled upscale", "seamless", "seamless texture", "alpha"),
    *_ENLARGE_IN_CHINESE,
    *(
        "图像放大",
        "图片放大",
        "高清放大",
        "无损放大",
        "模型放大",
        "分块",
        "分块放大",
        "无缝贴图",
        "无缝纹理",
        "透明通道",
    ),
    *("超解析度", "アップスケール", "超解像", "업스케일", "초해상도"),
)
OF_FILMS = (
    *_ENLARGE,
    *("video upscaler", "upscale video", "upscale film", "enlarge video", "video enhance", "video super resolution"),
    *("film", "movie", "2x", "4x", "4k", "8k"),
    *_MODELS,
    *_ENLARGE_IN_CHINESE,
    *("视频放大", "视频超分", "视频高清修复", "视频增强", "影片放大"),
    *("超解析度", "アップスケール", "超解像", "업스케일", "초해상도"),
)
OF_LATENTS = (
    *("latent upscale", "upscale latent", "latent upscaler", "hires fix", "neural latent upscale", "nnlatent", "sudo"),
    *("sesqui", "enlarge latent", "latent super resolution", "city96", "2x", "1.5x"),
    *("潜空间放大", "潜变量放大", "latent放大", "高清修复", "二次采样", "放大"),
)
OF_LOADING_LATENT = (
    *("latent upscale model loader", "load latent upscaler", "latent upscaler", "sesqui", "nnlatent", "sudo"),
    *("加载潜空间放大模型", "潜空间放大模型"),
)
OF_WARMING_UP = (
    *("warmup", "warm up upscale model", "compile", "compile upscale model", "precompile", "torch compile", "tune"),
    *("speed up", "预热", "模型预热", "编译", "预编译", "编译放大模型", "加速"),
)
OF_LOADING = (
    *("upscale model loader", "load upscaler", "upscaler", *_MODELS),
    *("加载放大模型", "放大模型", "放大模型加载器"),
)
